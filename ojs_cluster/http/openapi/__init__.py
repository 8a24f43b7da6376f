"""The OpenAPI document of the API, generated from the route table and the types of the handlers."""
