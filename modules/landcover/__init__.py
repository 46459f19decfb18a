"""Land cover: patches of a picture, a MobileNetV2 that names them, and the choice of the best."""
