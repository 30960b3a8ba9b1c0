"""What a consumer gets in place of the original request (docs/reference/forms.md). Pure.

`form` puts a definition's choices together; the other modules are one choice each.
"""
