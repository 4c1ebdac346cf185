"""What a laptop does to a cluster: check, connect, upload, submit and follow; nothing here trains"""
