"""A study as events: trials, workers, and the parts that all of them wait for; no Ray, no training, virtual time"""
