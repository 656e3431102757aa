"""The engine `torchvision`: detectors from torchvision's parts."""
