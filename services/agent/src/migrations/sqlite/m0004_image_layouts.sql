-- The layout of an image is kept, so that images of an older one can be built again.
ALTER TABLE revisions ADD COLUMN image_layout TEXT;
