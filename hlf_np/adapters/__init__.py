"""Our models as other libraries expect theirs; each file needs the library it is named after."""
