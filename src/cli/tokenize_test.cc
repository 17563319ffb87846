#include <gtest/gtest.h>

#include "cli/cli_testing.h"
#include "cli/commands.h"
