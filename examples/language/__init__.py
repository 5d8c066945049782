"""Parts of the example of a language model: text, model, command line and comparison, one file each."""
