"""Values at the pixels of images: their files, layouts and preparation."""
