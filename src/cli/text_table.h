// Tables of numbers on standard output, in the layout that pandas prints and that the tools of
// TensorRT-LLM therefore have: labels flush left, numbers flush right, two spaces between columns.
#pragma once

#include <string>
#include <vector>

namespace wideep::cli {

struct TextColumn {
  std::string name;
  std::vector<double> values;  // one a label; finite
};

// The header line, then one line a label, each with a newline at the end. As in pandas a column has
// six decimals less the zeros that all its numbers end with, at least one; and it is written with
// exponents where a number is closer to 0 than 1e-6, or exceeds 1e6 and is wider than 12 letters.
std::string text_table(const std::vector<std::string>& labels,
                       const std::vector<TextColumn>& columns);

}  // namespace wideep::cli
