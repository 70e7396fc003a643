"""The files that hold pickles and tensors: torch's zip, its older forms, safetensors; and which of them a file is."""
