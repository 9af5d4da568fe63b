"""Images: their files, where they wait for their batch, augmentation, boxes and points on them."""
