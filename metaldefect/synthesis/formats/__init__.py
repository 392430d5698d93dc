"""Write images with inserted defects in the formats that other tools read."""
