// Loads as csv tables, in two dialects (docs/formats.md): a plain matrix [layers][experts] without
// a header, or rows of counts under a header with the columns layer_idx, optionally iteration and
// dataset, and one column for each expert named by its number. Internal to load.h and the import.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Sums all rows of a layer. dataset: only the rows of that value of the column `dataset`; "": all.
// `name` (the path) opens the messages, which name the line and the column.
Result<Load> parse_csv_load(std::string_view text, const std::string& name,
                            std::string_view dataset = "");

}  // namespace wideep::eplb
