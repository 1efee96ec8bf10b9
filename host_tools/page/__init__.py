"""The one local page: try it, flash, watch. Its files lie in common/pages/, its guards in common/page_server.py."""
