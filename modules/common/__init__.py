"""Code that several families of modules share; nothing here is a module itself."""
