// The syntax tree of a chat template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/template_value.h"

namespace wideep::tokenizer {

struct Filter;
struct Test;

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kLiteral,      // value
  kName,         // text
  kList,         // children (a tuple is a list too)
  kMap,          // keys and values in turn
  kAttribute,    // child 0 . text
  kItem,         // child 0 [ child 1 ]
  kSlice,        // child 0 [ child 1 : child 2 : child 3 ], nullptr where left out
  kCall,         // child 0 ( the others, keywords )
  kFilter,       // child 0 | filter ( the others, keywords )
  kTest,         // child 0 is test ( the others )
  kNegate,       // - child 0
  kPlus,         // + child 0
  kNot,          // not child 0
  kAnd,          // child 0 and child 1
  kOr,           // child 0 or child 1
  kBinary,       // child 0 text child 1: + - * / // % ** ~
  kCompare,      // child 0 operators[0] child 1 operators[1] child 2 ...
  kConditional,  // child 0 if child 1 else child 2 (nullptr: undefined)
};

struct Expression {
  ExpressionKind kind;
  int line = 0;
  int depth = 1;  // of the tree
  std::string text = {};
  Value value = {};
  std::vector<ExpressionPtr> children = {};
  std::vector<std::pair<std::string, ExpressionPtr>> keywords = {};
  std::vector<std::string> operators = {};
  const Filter* filter = nullptr;
  const Test* test = nullptr;
};

struct Statement;
using StatementPtr = std::unique_ptr<Statement>;
using Block = std::vector<StatementPtr>;

enum class StatementKind {
  kText,      // text
  kOutput,    // expression
  kIf,        // branches, otherwise
  kFor,       // for targets in expression if filter: body, else otherwise
  kSet,       // targets = expression, or text.attribute = expression
  kSetBlock,  // targets[0] = what body writes
  kMacro,     // macro
  kBreak,
  kContinue,
};

struct MacroStatement {
  std::string name;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // nullptr: no default
  Block body;
};

struct Statement {
  StatementKind kind;
  int line = 0;
  std::string text = {};
  std::string attribute = {};
  std::vector<std::string> targets = {};
  ExpressionPtr expression = {};
  ExpressionPtr filter = {};
  std::vector<std::pair<ExpressionPtr, Block>> branches = {};
  Block body = {};
  Block otherwise = {};
  std::unique_ptr<MacroStatement> macro = {};
};

}  // namespace wideep::tokenizer
