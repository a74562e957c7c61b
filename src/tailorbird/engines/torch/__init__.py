"""PyTorch engine: any network of timm as a backbone. The only folder that imports PyTorch."""
