"""Generated protobuf code of the files in proto/; `make proto` rewrites it, nobody edits it."""
