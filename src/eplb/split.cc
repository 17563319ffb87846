#include "eplb/split.h"
