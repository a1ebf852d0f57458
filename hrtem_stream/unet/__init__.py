"""The U-Net. Alone knows torch."""
