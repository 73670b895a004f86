"""One picture: how it comes, how it is wanted back, its way through."""
