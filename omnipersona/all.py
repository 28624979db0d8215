"Everything public, for notebooks: `from omnipersona.all import *`. Written by hand; a test keeps it complete."
from .basics import *
