#include "kernels/self_attention.h"

#include "kernels/self_attention_testing.h"

namespace wideep::kernels {
namespace {

TEST(SelfAttentionTest, MatchesTheDefinition) {
  Random random(1);
  TestStream stream(2);
  for (const SelfShape& shape :
       {SelfShape{3, 24, 16, 40}, SelfShape{2, 192, 128, 256}, SelfShape{1, 5, 7, 7}}) {
    // Rows 4 and 5 belong to no sequence.
    const std::vector<AttentionSequence> sequences = {
        {6, 70, 0, nullptr}, {0, 4, 0, nullptr}, {76, 0, 0, nullptr}, {76, 1, 0, nullptr}};
    SelfInputs inputs(random, shape, 77, DType::kF32);
    SelfAttentionParams params = inputs.params();
    params.sequences = sequences;
    AttentionResult result(77, shape.num_heads, shape.v_dim);
    params.out = result.out.view();
    params.lse = result.lse.data();
    self_attention(stream, params);
    for (const AttentionSequence& sequence : sequences) {
      for (int i = 0; i < sequence.num_rows; ++i) {
        expect_self_row(params, sequence.first_row, i, result, 3e-6);
      }
    }
    EXPECT_TRUE(std::isnan(result.out.at(4, 0)) && std::isnan(result.out.at(5, 0)));
  }
}

}  // namespace
}  // namespace wideep::kernels
