"""Commands that a laptop sends to a remote cluster: check, connect, upload, submit, follow; nothing here trains"""
