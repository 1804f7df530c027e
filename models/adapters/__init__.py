"""One module a family: which model types it serves (``MODEL_TYPES``), and where their sites are (``adapt``)."""
