"""The engine: what moves the data, one direction, each module knowing one thing.

settings -> remote -> byte stream -> unpack, bounded -> landing -> manifest and report
"""
