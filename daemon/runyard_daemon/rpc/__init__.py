"""The daemon's services on the wire: thin, one file a service; messages end at this edge."""
