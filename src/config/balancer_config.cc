#include "config/balancer_config.h"
