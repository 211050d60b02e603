"""Where problems come from: the embedded countdown task, files, the Hugging Face hub."""
