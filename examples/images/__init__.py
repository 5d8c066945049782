"""Parts of the image-training example: data, model, timing, record, report and picture, one file each."""
