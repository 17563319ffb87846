#include <gtest/gtest.h>

#include <array>
#include <string>

#include "models/model.h"

namespace wideep::models {
namespace {

// Writes its name for each call.
class Diary : public RoutingObserver {
 public:
  Diary(std::string name, std::string& text) : name_(std::move(name)), text_(text) {}
  void on_routing(int layer, int first_row, std::span<const int32_t> ids, int top_k) override {
    text_ += name_ + std::to_string(layer) + std::to_string(first_row) +
             std::to_string(ids.size()) + std::to_string(top_k) + " ";
  }

 private:
  std::string name_;
  std::string& text_;
};

TEST(RoutingObserverList, CallsAllInOrder) {
  std::string text;
  Diary a("a", text);
  Diary b("b", text);
  RoutingObserverList list;
  EXPECT_EQ(list.target(), nullptr);
  list.add(a);
  EXPECT_EQ(list.target(), &a) << "one observer is called directly";
  list.add(b);
  const std::array<int32_t, 6> ids = {0, 1, 2, 3, 4, 5};
  list.target()->on_routing(3, 7, ids, 2);
  EXPECT_EQ(text, "a3762 b3762 ");
  list.target()->on_slots(3, ids);  // of no interest to them
  EXPECT_EQ(text, "a3762 b3762 ");
  list.remove(a);
  EXPECT_EQ(list.target(), &b);
  list.remove(b);
  EXPECT_EQ(list.target(), nullptr);
}

}  // namespace
}  // namespace wideep::models
