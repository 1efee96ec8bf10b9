"""The local page's views: try it, flash, watch. Its files are in common/pages/, its guards in common/page_server.py."""
