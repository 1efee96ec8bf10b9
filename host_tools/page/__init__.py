"""The local page's views: try it, flash, watch. Its files are in common/pages/, its checks of requests in
common/page_server.py."""
