"""Labelled data sets in VOC, COCO and Cityscapes layout."""
