-- Layers of hosts where seeds may live.
CREATE VIEW sites AS
SELECT run, site.name AS site, site.layer, site.inputs, site.outputs, site.slots, site.blueprints
FROM (SELECT run, unnest(sites) AS site FROM runs)
