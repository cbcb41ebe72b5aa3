"""The judge: reads the pixels of an image and says whether they are what the prompt asks for."""
