-- Whether an image has a base is kept, so that one without can be built again for containers.
ALTER TABLE revisions ADD COLUMN image_has_base BOOLEAN;
