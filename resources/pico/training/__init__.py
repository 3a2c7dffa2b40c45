"""What train.py is made of: the model, its data, fake quantization, checkpoints, evaluation."""
