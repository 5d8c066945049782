"""As much of torchvision as Horovod's two examples use, where the real one is not installed or not for this PyTorch."""
