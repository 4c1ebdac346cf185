"""Discrete-event simulation of a study: trials, workers and shared components in virtual time"""
