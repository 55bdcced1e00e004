"""RetNet: a decoder whose memory of the past has one size, however long the past is."""
