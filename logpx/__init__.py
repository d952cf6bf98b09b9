"""Log p(x) of any latent-variable model, with an error and a verdict. Importing this loads none of its modules."""
