# What the ground sends before the mission. CONFIGS is the folder of the shipped configurations.
ident 162
list download -n 162
ippc module -n 162 1 $(CONFIGS)/modules/cloud_cover.yaml
ippc module -n 162 2 $(CONFIGS)/modules/demosaic.yaml
ippc module -n 162 3 $(CONFIGS)/demo/thumbnail.yaml
ippc module -n 162 4 $(CONFIGS)/modules/jxl.yaml
ippc module -n 162 7 $(CONFIGS)/demo/chaos.yaml
ippc pipeline -n 162 1 $(CONFIGS)/demo/pipeline.yaml
ippc module -n 162 9 $(CONFIGS)/demo/aurora_pack.yaml
ippc pipeline -n 162 2 $(CONFIGS)/demo/aurora.yaml
set -n 162 module_timeout 20
list download -n 163
set -n 163 num_images 2
list download -n 161
set -n 161 suspend_a53 1
