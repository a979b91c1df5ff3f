"""What a search met: guards that refused something and let something pass.

May know of the histories that the checks see; not of who made them, nor of the search.
"""
