// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HyperGPULedger} from "../src/HyperGPULedger.sol";
import {Coordinated} from "./Coordinated.sol";
import {Trees, vm} from "./Vm.sol";

/// @dev Keeps calldata as code, from where it is read at the least cost.
contract Kept {
    constructor(bytes memory data) {
        assembly {
            return(add(data, 32), mload(data))
        }
    }
}

/// @dev The snapshot watches one call of each test. Twenty rounds are committed before; each grants to 100 accounts.
contract GasTest is Coordinated {
    bytes32 private constant SOMETHING = keccak256("something");
    Kept private _one;
    Kept private _twenty;

    function setUp() public override {
        super.setUp();
        address[] memory accounts = new address[](100);
        uint96[] memory amounts = new uint96[](100);
        for (uint256 i = 0; i < 100; ++i) {
            (accounts[i], amounts[i]) = (address(uint160(uint256(keccak256(abi.encode(i))))), 1 gwei);
        }
        (bytes32 root,) = Trees.rewardTree(_id, accounts, amounts, 0);
        HyperGPULedger.Grant[] memory grants = new HyperGPULedger.Grant[](20);
        for (uint64 round = 1; round <= 20; ++round) {
            _commit(root, round * 100 gwei);
            grants[round - 1] = Trees.grant(_id, round, accounts[5], accounts, amounts);
        }
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(19, 20);
        _one = new Kept(abi.encodeCall(_ledger.claim, (_id, accounts[5], before, rounds, one(grants[19]))));
        (before, rounds) = _rounds(1, 20);
        _twenty = new Kept(abi.encodeCall(_ledger.claim, (_id, accounts[5], before, rounds, grants)));
        vm.warp(block.timestamp + 60);
        vm.deal(address(this), 1 ether);
    }

    function test_gas_commit() public {
        vm.prank(COORDINATOR);
        _ledger.commitRound(_id, 21, SOMETHING, SOMETHING, SOMETHING, 2001 gwei);
    }

    function test_gas_claim() public {
        (bool ok,) = address(_ledger).call(address(_one).code);
        require(ok);
    }

    function test_gas_claim_of_twenty_rounds() public {
        (bool ok,) = address(_ledger).call(address(_twenty).code);
        require(ok);
    }

    function test_gas_fund() public {
        _ledger.fund{value: 1 gwei}(_id);
    }

    function test_gas_fund_to() public {
        _ledger.fundTo{value: 1 gwei}(_id, 10 ether + 1 gwei);
    }

    function test_gas_open() public {
        _ledger.open{value: 1 gwei}(SOMETHING);
    }
}
