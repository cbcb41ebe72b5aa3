"""What an image is worth: numbers from judges of images, alone or weighed together."""
