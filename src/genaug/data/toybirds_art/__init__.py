"""The drawings of the toybirds dataset: species, habitats, and the pictures made of them."""
