"""Judging pictures by what a detector sees in them.

boxes says what a detector is and gives, and compares boxes; darknet reads Darknet's networks; yolo is the detector that
is built in.
"""
