-- Each package's layer is made of its own wheel alone. What was made of a shared directory is not used again; its blobs
-- go once no image needs them.
DELETE FROM packages;
DELETE FROM layer_sets;
DELETE FROM dependency_layers;
