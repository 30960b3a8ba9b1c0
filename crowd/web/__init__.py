"""The HTTP side: producers' requests in, answers out, and the admin pages."""
