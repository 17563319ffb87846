// Looks for stop strings in text that comes in pieces, and holds back what could begin one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace wideep::engine {

class StopMatcher {
 public:
  // None may be empty.
  explicit StopMatcher(std::vector<std::string> stops);

  // Takes new text; returns what can be shown for sure. Once a stop string is complete the text
  // before it is returned, matched() is true, and no more comes. O(text x stops x stop length).
  std::string add(std::string_view text);
  // The end of the text: what was held back.
  std::string finish();

  bool matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;  // shorter than the longest stop string between calls
  bool matched_ = false;
};

}  // namespace wideep::engine
