/**
 * Documentation of exports: every exported symbol of every file of a package, and every public member of what a package
 * exports to its users.
 *
 * @module
 */
import { packageExports } from "./imports.ts";
import { createProgram } from "./program.ts";
import { packageNames, type SourceTree } from "./source_tree.ts";
import { ts } from "./typescript.ts";

/**
 * Reports what lacks a documentation comment. A member of a class that implements an interface, or overrides a method,
 * may leave the comment to the interface or the base class.
 */
export function checkExportDocs(tree: SourceTree): string[] {
  const program = createProgram(tree);
  const checker = program.getTypeChecker();
  const entryPoints = new Set(packageNames(tree).flatMap((name) => entryPointsOf(tree, name)));
  const problems = new Set<string>();
  const seen = new Set<ts.Symbol>();
  for (const file of program.getSourceFiles()) {
    const isEntryPoint = entryPoints.has(file.fileName);
    for (const symbol of exportsOf(checker, file)) {
      if (!isDocumented(symbol)) report(problems, symbol, symbol.name);
      if (!isEntryPoint || seen.has(symbol)) continue;
      seen.add(symbol);
      for (const member of membersOf(symbol)) {
        if (!isDocumented(member) && !inheritsComment(checker, member)) {
          report(problems, member, `${symbol.name}.${member.name}`);
        }
      }
    }
  }
  return [...problems].sort();
}

function entryPointsOf(tree: SourceTree, name: string): string[] {
  return Object.values(packageExports(tree, name)).map((path) => `packages/${name}/${path.replace(/^\.\//, "")}`);
}

/** The symbols that a module exports, re-exports followed to where they are declared. */
function exportsOf(checker: ts.TypeChecker, file: ts.SourceFile): ts.Symbol[] {
  const module = checker.getSymbolAtLocation(file);
  if (!module) return [];
  return checker.getExportsOfModule(module)
    .map((symbol) => symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol)
    .filter((symbol) => symbol.declarations !== undefined);
}

/** Members of an interface, an enumeration, an object type, or the public part of a class. */
function membersOf(symbol: ts.Symbol): ts.Symbol[] {
  return (symbol.declarations ?? []).flatMap((declaration) => {
    if (ts.isTypeAliasDeclaration(declaration)) return objectTypeMembers(declaration.type);
    const listsMembers = ts.isInterfaceDeclaration(declaration) || ts.isClassDeclaration(declaration) ||
      ts.isEnumDeclaration(declaration);
    return listsMembers ? [...symbol.members?.values() ?? [], ...symbol.exports?.values() ?? []] : [];
  }).filter(isPublicMember);
}

function objectTypeMembers(type: ts.TypeNode): ts.Symbol[] {
  const parts = ts.isUnionTypeNode(type) || ts.isIntersectionTypeNode(type) ? type.types : [type];
  return parts.flatMap((part) => ts.isTypeLiteralNode(part) ? part.members.flatMap(symbolOf) : []);
}

/** The checker gives no symbol of a member without a type of its own, but the binder leaves it on the node. */
function symbolOf(node: ts.Node): ts.Symbol[] {
  const { symbol } = node as ts.Node & { readonly symbol?: ts.Symbol };
  return symbol ? [symbol] : [];
}

function isPublicMember(member: ts.Symbol): boolean {
  const [declaration] = member.declarations ?? [];
  if (!declaration || ts.isConstructorDeclaration(declaration) || ts.isTypeParameterDeclaration(declaration)) {
    return false;
  }
  const name = ts.getNameOfDeclaration(declaration);
  if (name && ts.isPrivateIdentifier(name)) return false;
  return !(ts.getCombinedModifierFlags(declaration) & (ts.ModifierFlags.Private | ts.ModifierFlags.Protected));
}

/** Every signature of an overloaded function needs a comment of its own; of other merged declarations one is enough. */
function isDocumented(symbol: ts.Symbol): boolean {
  const declarations = symbol.declarations ?? [];
  const signatures = declarations.filter((each) => ts.isFunctionLike(each) && !ts.isAccessor(each));
  if (signatures.length < 2) return declarations.some(hasComment);
  return signatures.filter((each) => !("body" in each) || each.body === undefined).every(hasComment);
}

/**
 * The checker looks for the comment of a bare member in what its class implements or extends. Of a base class that lies
 * outside the packages, such as Error, it knows nothing: there the word `override` has to do.
 */
function inheritsComment(checker: ts.TypeChecker, member: ts.Symbol): boolean {
  const overrides = member.declarations!.some((each) => ts.getCombinedModifierFlags(each) & ts.ModifierFlags.Override);
  return overrides || !member.declarations!.some(hasComment) && member.getDocumentationComment(checker).length > 0;
}

/** True for a comment with text, be it the main one or that of a `@param` tag which declares a member. */
function hasComment(declaration: ts.Declaration): boolean {
  return ts.getJSDocCommentsAndTags(declaration).some((each) => !!ts.getTextOfJSDocComment(each.comment)?.trim());
}

function report(problems: Set<string>, symbol: ts.Symbol, name: string): void {
  const declaration = symbol.declarations![0];
  const file = declaration.getSourceFile();
  const line = file.getLineAndCharacterOfPosition(declaration.getStart(file, false)).line + 1;
  problems.add(`${file.fileName}:${line}: Cannot export ${name} without a documentation comment`);
}
