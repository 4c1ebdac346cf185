"""Files, folders and URLs: written so that nothing is lost, and locked so that one process writes"""
