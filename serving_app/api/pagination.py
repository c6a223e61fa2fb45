"""How lists are paged."""

from rest_framework import pagination


class PageNumberPagination(pagination.PageNumberPagination):
    """Pages by number; ``page_size`` sets the size, up to 500."""

    page_size_query_param = "page_size"
    max_page_size = 500
